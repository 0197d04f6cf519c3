-- wrk script: POST one body, always the same, and end with one line of JSON that lab/bench/wrk.py reads.
-- Environment: BENCH_BODY (file that holds the body), BENCH_KEY (sent as the bearer token).
-- With no `request` function of its own wrk sends one prepared request over and over, which costs it least.
local file = assert(io.open(os.getenv("BENCH_BODY"), "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("BENCH_KEY")

function done(summary, latency)
  local failed = summary.errors
  local fields = {
    requests = summary.requests,
    seconds = summary.duration / 1000000,
    p50_ms = latency:percentile(50) / 1000,
    p99_ms = latency:percentile(99) / 1000,
    bad_status = failed.status,
    socket_errors = failed.connect + failed.read + failed.write + failed.timeout,
  }
  local parts = {}
  for name, value in pairs(fields) do
    parts[#parts + 1] = string.format('"%s":%.6f', name, value)
  end
  print("\nRESULT {" .. table.concat(parts, ",") .. "}")
end
