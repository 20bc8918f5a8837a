# metrics.jsonl of finished or running runs -> one HTML page.
add_library(ballot_report STATIC report.cpp report_chart.cpp report_data.cpp)
target_link_libraries(ballot_report PUBLIC ballot_core PRIVATE nlohmann_json::nlohmann_json)
