"""What a server counts: python examples/metrics.py [URL]"""

import sys

import httpx
from prometheus_client.parser import text_string_to_metric_families

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
answer = httpx.get(f"{url}/metrics").raise_for_status()
for family in text_string_to_metric_families(answer.text):
    for sample in family.samples:
        if family.name.startswith("resq_") and family.type in ("counter", "gauge"):
            print(sample.name, dict(sample.labels), sample.value)
