"""N engines behind one address: `app.py --replicas N`.

Ray Serve starts the replicas, checks and replaces them, and rolls them over one at a time (replica). Each is
a process with the page and a port of its own. A front in the process that was started passes bytes on to them
(front) and has a visitor stay with one (routing). What must outlive a replica is in an actor (directory).

Imported by app.py alone, and only for more than one replica.
"""
