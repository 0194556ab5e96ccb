"""Completion and gold answer in, `Verdict` out. Untrusted text is judged in killable child processes.

```python
with Verifier() as verifier:
    verdicts = verifier.verify([VerificationRequest("p1", 0, completion_text, gold_answer)])
```
"""

from sage_dpo.verification.extraction import Extraction, extract_answer
from sage_dpo.verification.requests import VerificationRequest, requests_for
from sage_dpo.verification.verifier import Verifier

RULES = 2
"""Counts changes of the rules that decide verdicts; results graded by other rules are graded again."""

__all__ = ["RULES", "Extraction", "VerificationRequest", "Verifier", "extract_answer", "requests_for"]
