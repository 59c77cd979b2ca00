"""The bus, the network and the nodes in virtual time: a model that is searched for harm, and the runs it once found."""
