"""The report of a study: ``report.html``, figures as PNG, numbers as JSON and CSV. Face: `report.write_report`."""
