# ballot_elastic: training whose workers come and go, over the failure protocol.
add_library(ballot_elastic STATIC
  elastic/chunk_decision.cpp elastic/step_figures.cpp elastic/voter_ballot.cpp elastic/member_ballot.cpp elastic/member_orders.cpp elastic/elastic_journal.cpp elastic/replica.cpp elastic/recovery.cpp
  elastic/elastic_worker.cpp elastic/elastic_trainer.cpp)
target_link_libraries(ballot_elastic PUBLIC ballot_trainer ballot_protocol ballot_coordinator ballot_peers PRIVATE ballot_watching)
