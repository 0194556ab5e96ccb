"""Everyday questions: short, in plain English, with one number as the answer. For small pretrained policies.

    question <- numbers, lists, sentences <- world <- suites

The gym's counterpart for a policy that already speaks: the gym invents a language, these are asked in English. Families
of questions come at three levels; the hardest is never trained on. Everything derives from a seed.
"""
