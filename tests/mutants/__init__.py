"""The judge is judged: known bugs, put into the product one at a time, that the tests must find."""
