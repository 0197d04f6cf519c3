"""What is wrong with a policy, told to its author."""


class PolicyError(Exception):
    """A policy cannot be used. `file` and `line` (from 1; 0 where there is no file) say where, `sentence` what."""

    def __init__(self, file: str, line: int, sentence: str) -> None:
        super().__init__(f"{file}, line {line}: {sentence}" if line else f"{file}: {sentence}")
        self.file, self.line, self.sentence = file, line, sentence
