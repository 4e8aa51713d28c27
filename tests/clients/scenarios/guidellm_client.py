import json
import os
import pathlib
import subprocess
import sys
import tempfile

from features import KEY, MODEL, TOKENIZER, URL, check, feature

REQUESTS = 4


def benchmark(path: str, stream: bool = True) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        spec = {
            "backend": {"kind": "openai_http", "target": URL, "model": MODEL, "request_format": path, "api_key": KEY, "stream": stream},
            "profile": {"kind": "concurrent", "streams": [2]},
            "constraints": [{"kind": "max_requests", "count": REQUESTS}],
            "tokenizer": {"kind": "huggingface_auto", "model": TOKENIZER},
            "data": [{"kind": "synthetic_text", "prompt_tokens": 32, "output_tokens": 16}],
            "outputs": [{"kind": "json", "path": str(report)}],
        }
        config = pathlib.Path(folder) / "config.json"
        config.write_text(json.dumps({"spec": spec}))
        command = [str(pathlib.Path(sys.executable).parent / "guidellm"), "run", "--config", str(config), "--disable-console-interactive"]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200)
        check(done.returncode == 0 and report.is_file(), f"exit status {done.returncode}: {done.stdout[-300:]}")
        totals = json.loads(report.read_text())["benchmarks"][0]["metrics"]["request_totals"]
    check((totals["successful"], totals["errored"]) == (REQUESTS, 0), totals)


feature("chat, streamed", lambda: benchmark("/v1/chat/completions"))
feature("completions, streamed", lambda: benchmark("/v1/completions"))
feature("chat, whole", lambda: benchmark("/v1/chat/completions", stream=False))
