"""`catflap lab books`: after everything that can go wrong has gone wrong, does the ledger say what the clients say?"""
