# What `ballot status --watch` draws with.
add_library(ballot_watch_screen STATIC watch_screen.cpp)
target_link_libraries(ballot_watch_screen PUBLIC ballot_core)

# `ballot coordinator`, `ballot status`, `ballot expel`.
target_sources(ballot_commands PRIVATE coordinator_command.cpp coordinator_flags.cpp status_command.cpp status_text.cpp run_status.cpp)
target_link_libraries(ballot_commands PUBLIC ballot_coordinator ballot_coordinator_watch ballot_watch_screen)
