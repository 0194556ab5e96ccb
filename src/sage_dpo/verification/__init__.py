"""Completion and gold answer in, `Verdict` out. Untrusted text is judged in killable child processes.

```python
with Verifier() as verifier:
    verdicts = verifier.verify([VerificationRequest("p1", 0, completion_text, gold_answer)])
```
"""

from sage_dpo.verification.extraction import Extraction, extract_answer
from sage_dpo.verification.requests import VerificationRequest, requests_for
from sage_dpo.verification.verifier import Verifier

__all__ = ["Extraction", "VerificationRequest", "Verifier", "extract_answer", "requests_for"]
