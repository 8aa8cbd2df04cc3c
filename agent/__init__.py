"""Networks and learning, in JAX: arrays in, arrays out. No files, no flags, no environments.

Axis letters, the same in every docstring and shape comment of this repository, but where one gives a letter another
meaning:

    B  batch: rows of tokens, or chains acting in parallel      E  width of the residual stream
    N  trajectories in a chain                                  H  attention heads
    S  steps kept of each trajectory                            D  width of one head, E / H
    K  token kinds per step                                     F  width of the feed-forward layer
    M  steps in a row: M = N * S when rows hold one chain       O  observation size
    L  tokens in a row: L = M * K                               A  action size
    C  slots of a key/value cache                               T  steps of one episode
    G  heads of keys and values                                 P  numbers that a head says of an action
"""
