"""The steward's page: what a coordinator's records and models say, for people who must answer for them.

Read-only, on loopback, without Flower and without torch. Views (`views_*.py`) turn records into blocks
(`blocks.py`); templates turn blocks into HTML, the same for the page and for a report in one file.
"""
