# The failure protocol without sockets, threads and clocks: the membership rule, the coordinator, the worker.
add_library(ballot_protocol STATIC
  protocol/messages.cpp protocol/ledger.cpp protocol/history.cpp protocol/membership.cpp
  protocol/publication.cpp protocol/parameter_audit.cpp protocol/coordinator_core.cpp protocol/worker_core.cpp protocol/journal_log.cpp)
target_link_libraries(ballot_protocol PUBLIC ballot_core ballot_journal)
