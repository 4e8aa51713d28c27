"""Writes deployments/serve_config.yaml into the cpu-demo overlay: `python -m tests.manifests.embed` after changing it."""

import pathlib

ROOT = pathlib.Path(__file__).parents[2]

SHIPPED = ROOT / "deployments" / "serve_config.yaml"

OVERLAY = ROOT / "k8s" / "overlays" / "cpu-demo" / "serve-config.yaml"

KEY = "  serveConfigV2: |\n"


def embedded(overlay: str, shipped: str) -> str:
    """The overlay's text with the shipped file's as its serveConfigV2."""
    head = overlay[: overlay.index(KEY) + len(KEY)]
    return head + "".join(f"    {line}" if line.strip() else line for line in shipped.splitlines(keepends=True))


if __name__ == "__main__":
    OVERLAY.write_text(embedded(OVERLAY.read_text(encoding="utf-8"), SHIPPED.read_text(encoding="utf-8")), encoding="utf-8")
