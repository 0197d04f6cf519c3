"""`catflap lab exactness`: do limits mean what they say? Clients ask for far more than they may have, through several
gateways, and an auditor judges from their own log alone."""
