"""Completion and gold answer in, `Verdict` out. Untrusted text is judged in killable child processes.

```python
with Verifier() as verifier:
    verdicts = verifier.verify([VerificationRequest("p1", 0, completion_text, gold_answer)])
```
"""

from sage_dpo.verification.answer_types import AnswerType
from sage_dpo.verification.extraction import Extraction, extract_answer
from sage_dpo.verification.requests import VerificationRequest, request_for, requests_for
from sage_dpo.verification.verifier import Verifier

RULES = 3
"""Counts changes of the rules that decide verdicts; results graded by other rules are graded again."""

__all__ = [
    "RULES",
    "AnswerType",
    "Extraction",
    "VerificationRequest",
    "Verifier",
    "extract_answer",
    "request_for",
    "requests_for",
]
