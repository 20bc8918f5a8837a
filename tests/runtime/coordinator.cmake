# The coordinator: its messages, its store, its own thread, and real clients against a real server.
ballot_test(coordinator_convert_test coordinator_convert_test.cpp LINK ballot_coordinator ballot_proto)
ballot_test(coordinator_store_test coordinator_store_test.cpp LINK ballot_coordinator SQLite::SQLite3)
ballot_test(coordinator_desk_test coordinator_desk_test.cpp LINK ballot_coordinator)
ballot_test(coordinator_server_test coordinator_server_test.cpp coordinator_access_test.cpp LINK ballot_coordinator ballot_proto)
