"""The judge on real processes: clusters on loopback, faults, clients, and checks of what they saw.

`python -m tests.nemesis --minutes N` runs rounds of a minute or so. `plan` draws from a seed what a
round is; `cluster` and `faults` do it to real nodes, while `clients` run the operations that
`workload` makes up and write down what they are told. Then `judge` compares that with what a store
may do, `page` draws it, and `main` adds it up. `references` points the same judge at other stores.
"""
