# ballot_journal: records, segment files, the thread that writes them. Knows no network.
add_library(ballot_journal STATIC
  journal/record.cpp journal/applied.cpp journal/format.cpp journal/journal_reader.cpp journal/journal.cpp
  journal/journal_writer.cpp journal/shards.cpp)
target_include_directories(ballot_journal PRIVATE ${XXHASH_INCLUDE_DIR})
target_link_libraries(ballot_journal PUBLIC ballot_core)

# What ties a run to it: the trainer's part, and replaying.
set(BALLOT_JOURNAL_OF_THE_TRAINER step_layout.cpp step_update.cpp decision_record.cpp replay.cpp replay_run.cpp
  run_journal.cpp)
