"""What the dashboard and the alerts ask for is what /metrics shows."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"gatepost_[a-z_]+")


def declared() -> set[str]:
    """Every metric's name as Prometheus sees it, from where they are declared."""
    found = set()
    text = (ROOT / "portal/metrics.py").read_text() + (ROOT / "portal/app.py").read_text()
    pattern = r"(Counter|Histogram|Reading|Spread)(?:MetricFamily)?\(\s*\"(gatepost_[a-z_]+)\""
    for kind, name in re.findall(pattern, text):
        found |= {name} if kind == "Reading" else set()
        found |= {f"{name}_total"}
        found |= {f"{name}_bucket", f"{name}_count", f"{name}_sum"} if kind in ("Histogram", "Spread") else set()
    return found


def test_every_metric_that_is_asked_for_exists() -> None:
    dashboard = (ROOT / "docs/monitoring/dashboard.json").read_text()
    json.loads(dashboard)
    for text in (dashboard, *(path.read_text() for path in (ROOT / "docs/monitoring").glob("*.[ym][md]*l*"))):
        asked = set(NAME.findall(text))
        assert asked, "nothing is asked for"
        assert asked <= declared(), f"not shown by /metrics: {sorted(asked - declared())}"
