#!/usr/bin/python3
"""The container's health check: whether the server answers. Without torch, which takes seconds."""

import os
import urllib.request

port = os.environ.get("RESQ_PORT", "8000")
urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=4).close()
