"""`portico bench`: loads one's own preview URL, and says how it answered.

::

    target   what may be loaded, and where it is
    tally    answers and failures, and what they come to     (pure)
    client   one connection and its requests
    drive    many of them, as fast as they go or at a rate
    screen   what is shown while it runs, and the report

A load test aimed at somebody else's server is an attack, so there is one place that decides what may be a target:
`target.refusal`.
"""
