# Sidekiq: jobs, a bulk, a scheduled job, a retry, statistics, with a worker process of its own.
require "sidekiq"
require "sidekiq/api"

# Sidekiq 6.4 calls redis-rb in ways that it calls deprecated.
Redis.silence_deprecations = true
PORT = Integer(ENV.fetch("REDIS_PORT"))
URL = { url: "redis://127.0.0.1:#{PORT}/1" }.freeze
Sidekiq.configure_client { |config| config.redis = URL }
Sidekiq.configure_server do |config|
  config.redis = URL
  # Seconds between looks for jobs that are due.
  config.options[:poll_interval_average] = 1
end

class Count
  include Sidekiq::Worker

  def perform(key)
    Sidekiq.redis { |redis| redis.incr(key) }
  end
end

class FailOnce
  include Sidekiq::Worker
  sidekiq_retry_in { 1 }

  def perform(key)
    raise "as planned" if Sidekiq.redis { |redis| redis.incr(key) } == 1
  end
end

# Sidekiq's own program loads this file for the classes.
return unless $PROGRAM_NAME == __FILE__

def wait_until(what)
  deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + 60
  until yield
    abort "not true: #{what}" if Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline
    sleep 0.02
  end
end

def counted(key)
  Integer(Sidekiq.redis { |redis| redis.get(key) } || 0)
end

# With several queues, a worker waits for all of them in one BRPOP.
queues = %w[-q urgent,2 -q default]
worker = spawn("sidekiq", "-r", File.expand_path(__FILE__), "-c", "4", *queues)
begin
  50.times { Count.perform_async("single") }
  Sidekiq::Client.push_bulk("class" => Count, "args" => [["bulk"]] * 50)
  10.times { Count.set(queue: "urgent").perform_async("urgent") }
  Count.perform_in(1, "later")
  FailOnce.perform_async("retried")
  wait_until("50 jobs") { counted("single") == 50 }
  wait_until("50 jobs in bulk") { counted("bulk") == 50 }
  wait_until("10 urgent jobs") { counted("urgent") == 10 }
  wait_until("the scheduled job") { counted("later") == 1 }
  wait_until("the retry") { counted("retried") == 2 }
  wait_until("the statistics") { Sidekiq::Stats.new.processed >= 113 }
  wait_until("no job is left") { Sidekiq::Stats.new.enqueued.zero? }
ensure
  Process.kill("TERM", worker)
  Process.wait(worker)
end
wait_until("the process has gone") { Sidekiq::ProcessSet.new.size.zero? }
