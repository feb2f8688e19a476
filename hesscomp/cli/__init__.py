"""The command line: options to calls, results to tables, files and exit statuses."""
