"""How steps try again what may fail for a moment.

Hermetic helpers, inlined into the steps as `additional_funcs`.
"""

from typing import Any, Callable


def with_retries(
    call: Callable[[], Any],
    transient: Callable[[BaseException], bool],
    shown: str,
    attempts: int,
    first_wait: float,
) -> Any:
    """Does something that may fail for a moment, with retries.

    Args:
        call: What to do, each time from its start.
        transient: Whether an error may be gone the next time.
        shown: What it is about, as the log shows it.
        attempts: How often it is tried.
        first_wait: Seconds before the second attempt; doubled each time, 10 at most.

    Returns:
        What `call` returned.

    Raises:
        BaseException: What `call` raised in the last attempt.
    """
    import tenacity

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(transient),
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_exponential(multiplier=first_wait, max=10),
        before_sleep=lambda state: print(f"{shown}: attempt {state.attempt_number} failed, trying again", flush=True),
        reraise=True,
    )(call)
