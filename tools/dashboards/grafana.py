"""Makes Grafana's JSON of a dashboard, as Grafana 12 writes it (schema version 41); later ones migrate it."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from tools.dashboards.panel import WIDTH, Dashboard, Kind, Panel, Query, Row

SCHEMA_VERSION = 41
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
Object = dict[str, Any]


def text(dashboard: Dashboard) -> str:
    return json.dumps(_dashboard(dashboard), indent=1) + "\n"


def _dashboard(dashboard: Dashboard) -> Object:
    return {
        "uid": f"baton-{dashboard.name}",
        "title": f"Baton / {dashboard.title}",
        "description": dashboard.text,
        "tags": list(dashboard.tags),
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "fiscalYearStartMonth": 0,
        "annotations": {"list": []},
        "links": [
            {
                "type": "dashboards",
                "title": "Baton",
                "tags": ["baton"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": list(_variables())},
        "panels": list(_panels(dashboard.rows)),
    }


def _variables() -> Iterator[Object]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}
    yield _of_labels("job", "Cluster", "label_values(baton_info, job)", has_all=False)
    yield _of_labels("model", "Model", 'label_values(baton_slo_requests_total{job=~"$job"}, model)', has_all=True)


def _of_labels(name: str, label: str, query: str, *, has_all: bool) -> Object:
    chosen = {"selected": True, "text": "All", "value": "$__all"}
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "includeAll": has_all,
        "multi": has_all,
        **({"allValue": ".*", "current": chosen} if has_all else {}),
    }


def _panels(rows: Sequence[Row]) -> Iterator[Object]:
    """Each row's from left to right; a panel's id is its place in the dashboard."""
    y = number = 0
    for row in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
        }
        y, x, height = y + 1, 0, 0
        for panel in row.panels:
            if x + panel.width > WIDTH:
                y, x, height = y + height, 0, 0
            number += 1
            yield _panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": panel.height})
            x, height = x + panel.width, max(height, panel.height)
        y += height


def _panel(panel: Panel, number: int, place: Object) -> Object:
    return {
        "id": number,
        "type": panel.kind.value,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": [_target(query, chr(ord("A") + index)) for index, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
    }


def _target(query: Query, letter: str) -> Object:
    return {
        "refId": letter,
        "datasource": SOURCE,
        "expr": query.expression,
        "legendFormat": query.legend or "__auto",
        "range": True,
        "editorMode": "code",
    }


def _defaults(panel: Panel) -> Object:
    found: Object = {
        "unit": panel.unit,
        "min": panel.low,
        "color": {"mode": "thresholds" if panel.steps and panel.kind is not Kind.LINES else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": _steps(panel)},
    }
    if panel.high is not None:
        found["max"] = panel.high
    if panel.kind is Kind.LINES:
        found["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 25 if panel.is_stacked else 8,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.is_stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.steps else "off"},
        }
    return found


def _steps(panel: Panel) -> list[Object]:
    steps = [{"color": step.colour, "value": step.value} for step in panel.steps]
    return steps or [{"color": "green", "value": None}]


def _options(panel: Panel) -> Object:
    if panel.kind is Kind.LINES:
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    reduced: Object = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    if panel.kind is Kind.NUMBER:
        return {**reduced, "colorMode": "value", "graphMode": "area", "textMode": "auto", "justifyMode": "auto"}
    return {**reduced, "displayMode": "gradient", "orientation": "horizontal"}
