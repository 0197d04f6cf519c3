"""Why something could not be started, said once, for the person at the keyboard."""


class StartError(Exception):
    """The message is one sentence that says what is wrong and what to do."""
