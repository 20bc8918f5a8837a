# ballot_checkpoint: what a run can be resumed from. Knows no transport.
add_library(ballot_checkpoint STATIC
  checkpoint.cpp checkpoint_file.cpp checkpoint_manifest.cpp checkpoint_publish.cpp checkpoint_share.cpp
  checkpoint_staging.cpp checkpoint_state.cpp checkpoint_writer.cpp part_text.cpp share_check.cpp)
target_include_directories(ballot_checkpoint PRIVATE ${XXHASH_INCLUDE_DIR})
target_link_libraries(ballot_checkpoint PUBLIC ballot_core ballot_models ballot_optim PRIVATE nlohmann_json::nlohmann_json)
