import json
import pathlib
import subprocess
import sys
import tempfile

from features import KEY, MODEL, TOKENIZER, URL, check, feature

REQUESTS = 4


def profile(kind: str, *more: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(pathlib.Path(sys.executable).parent / "aiperf"), "profile", "--model", MODEL, "--url", URL, "--endpoint-type", kind,
            "--tokenizer", TOKENIZER, "--api-key", KEY, "--isl", "32", "--osl", "16", "--request-count", str(REQUESTS),
            "--concurrency", "2", "--ui", "none", "--artifact-dir", folder, *more,
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200)
        reports = sorted(pathlib.Path(folder).rglob("profile_export_aiperf.json"))
        check(done.returncode == 0 and reports, f"exit status {done.returncode}: {done.stdout[-300:]}")
        report = json.loads(reports[0].read_text())
    check(report["request_count"]["avg"] == REQUESTS, report["request_count"])
    found = sorted(name for name in report if "accept" in name or "spec_decode" in name)
    return f"speculation: {', '.join(found) or 'none'}"


feature("chat, streamed", lambda: profile("chat", "--streaming"))
feature("completions, streamed", lambda: profile("completions", "--streaming"))
feature("chat, whole", lambda: profile("chat"))
