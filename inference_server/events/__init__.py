"""The writing side of the learning loop: events, catalogue changes and impressions, from a call to the stream.

recorder           the three calls that write, for every protocol
group_commit       appends the entries of concurrent calls together; back-pressure, breaker, deadlines
impression_stream  appends what was shown, after the answers; bounded, drops are counted
stream             the interface of a stream
redis_stream       Redis Streams, the default
kafka_stream       Kafka
stream_factory     opens the stream that the settings name
"""
