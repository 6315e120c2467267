"""The operator's room: command line, import, dashboards, alert rules and runbook.

May import every other room; no room imports this one.
"""
