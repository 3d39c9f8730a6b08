"""What is said of the images that were drawn from each class."""

NEAR = 0.02  # difference between the share that was asked for and the one that was drawn that is not worth a word


def difference(drawn, total, share, together=False):
    """Say how far the images that were drawn differ from the share of each class that was asked for, and why.

    Args:
        drawn: number of images that were drawn.
        total: number of all images.
        share: the fraction of each class that was asked for.
        together: whether some images, copies or those of a group, were drawn together.

    Returns:
        A text such as "33%, not 20%: at least one of each class with two"; "" if they hardly differ.
    """
    if abs(drawn / total - share) <= NEAR:
        return ""
    if together:
        reason = "copies and groups stay together"
    else:
        reason = "at least one of each class with two" if drawn > share * total else "whole images of each class"
    return f"{drawn / total:.0%}, not {share:.0%}: {reason}"
