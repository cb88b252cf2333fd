"""The engine whose workers are on other machines: actors of Ray behind the same gateway.

See docs/ray.md. `roster`, `engine`, `call` and `joining` import Ray, which is an extra of the
package; the rest of the server imports this package only where it is asked for.
"""
