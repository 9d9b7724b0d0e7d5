"""doctor: what is wrong here, and how to mend it. Each check is a function that gives findings; none of them changes anything."""
