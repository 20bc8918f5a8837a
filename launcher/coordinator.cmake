# `ballot coordinator`, `ballot status`, `ballot expel`.
target_sources(ballot_commands PRIVATE coordinator_command.cpp coordinator_flags.cpp status_command.cpp)
target_link_libraries(ballot_commands PUBLIC ballot_coordinator ballot_coordinator_watch)
