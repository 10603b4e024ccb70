"""stub"""


def write_report(report, output):
    import json

    output.with_suffix(".json").write_text(json.dumps(report, indent=1))
