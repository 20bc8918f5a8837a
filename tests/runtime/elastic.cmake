# What an elastic run is made of, without its processes.
ballot_test(elastic_decision_test elastic_decision_test.cpp LINK ballot_elastic)
ballot_test(elastic_journal_test elastic_journal_test.cpp LINK ballot_elastic)
ballot_test(elastic_trainer_test elastic_trainer_test.cpp LINK ballot_elastic nlohmann_json::nlohmann_json
  TIMEOUT 900)  # also under sanitizers on a busy machine
ballot_test(elastic_members_test elastic_members_test.cpp LINK ballot_elastic nlohmann_json::nlohmann_json
  TIMEOUT 900)
