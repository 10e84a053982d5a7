"""`baton batch`: files of requests, answered line by line."""
