# metrics.jsonl of finished or running runs -> one HTML page.
add_library(ballot_report STATIC
  report.cpp report_bars.cpp report_chart.cpp report_data.cpp report_figures.cpp report_run_section.cpp report_text.cpp)
target_link_libraries(ballot_report PUBLIC ballot_core PRIVATE nlohmann_json::nlohmann_json)
