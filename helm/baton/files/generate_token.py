"""Asks the Service for one token and fails without it: what `helm test` runs, with the standard library alone."""

import json
import os
import ssl
import urllib.request

headers = {"Content-Type": "application/json"}
if key := os.environ.get("BATON_API_KEY"):
    headers["Authorization"] = f"Bearer {key}"
body = json.dumps({"prompt": "Once upon a time", "max_tokens": 1, "temperature": 0}).encode()
unchecked = ssl._create_unverified_context()  # the Service's name need not be in the certificate
if folder := os.environ.get("BATON_CLIENT_CERTIFICATE"):
    unchecked.load_cert_chain(f"{folder}/tls.crt", f"{folder}/tls.key")
request = urllib.request.Request(f"{os.environ['BATON_URL']}/v1/completions", body, headers)
with urllib.request.urlopen(request, timeout=60, context=unchecked) as answer:
    said = json.load(answer)
assert said["usage"]["completion_tokens"] == 1, said
print(f"{said['model']} said {said['choices'][0]['text']!r}")
