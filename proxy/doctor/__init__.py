"""`portico doctor`: walks what can be wrong with a preview URL, and names the one thing to mend.

::

    asking   names looked up, connections made, requests asked: what a client of the URL would do
    walk     the steps in order, from what was asked to findings
    record   what the sandbox's own log adds, where there is one to read
    report   printed for people or for programs

What the findings are is decided in `proxy.core` (`diagnosis`, `reaching`, `symptoms`, `flow`, `facts`).
"""
