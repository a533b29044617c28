"""The paper and the thesis on Raft, one test for each rule.

Every docstring names its source and says the rule in our own words; where the core deliberately
does something else, it says what and why, and the test shows what the core does.
"""
