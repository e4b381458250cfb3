"""The one error of the devstack."""


class StackError(Exception):
    """A part is missing, did not start, died, or did not answer in time.

    The message is meant for a person: it names the part and ends with its log's last lines.
    """
