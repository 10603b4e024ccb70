"""The writing side of the learning loop: events and catalogue changes, from a call to the stream.

incoming      wire messages -> entries of the contract, validated
recorder      the three calls, whatever protocol they came over
group_commit  calls that arrive together are appended together; back-pressure, breaker, deadlines
stream        the interface of a stream
redis_stream  Redis Streams, the default
kafka_stream  Kafka
opening       which of them the settings name
"""
