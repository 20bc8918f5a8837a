# The coordinator's row and leadership in a real etcd (deploy/packages-test).
ballot_test(etcd_test etcd_test.cpp LINK ballot_coordinator ballot_proto)
# Who of several coordinators leads, without etcd.
ballot_test(leadership_test leadership_test.cpp LINK ballot_coordinator)
