"""The rehearsal lab: N machine-like nodes on this machine, for learning, for drills and for the tests.

from clusterctl.lab import lab
made = lab.up("drill", nodes=2, directory=Path("drill"), say=print)   # or lab.open_lab("drill")
made.inventory                              # what `clusterctl -i` takes
made.exec("node1", ["docker", "ps"])        # inside a node, without SSH; made.enter("node1") is the argv prefix
made.disk("node2") / "models/tiny"          # node2's own copy of the model, to damage it
lab.power_off(made, "node2"); lab.power_on(made, "node2"); lab.partition(made, "node2"); lab.heal(made, "node2")
lab.status(made); lab.down("drill", say=print)
"""
