import Fleet
import Testing

@Suite struct TransferMeterTests {
    @Test func theMeterHasRateAndRest() {
        var meter = TransferMeter()
        meter.add(0, of: 100 << 20, at: .zero)
        meter.add(10 << 20, of: 100 << 20, at: .seconds(1))
        #expect(meter.line("file") == "file  10 %  10.0 MiB  10.0 MiB/s  0:09 left")
        // It follows what has changed.
        for second in 2...12 { meter.add(UInt64(10 + second) << 20, of: 100 << 20, at: .seconds(second)) }
        #expect(meter.rate < 1.1 * 1_048_576)
        #expect(meter.summary("file", .seconds(11)) == "file  100 %  22.0 MiB  2.0 MiB/s  0:11")
        #expect(TransferMeter.size(999) == "999 B")
        #expect(TransferMeter.time(3_725) == "1:02:05")
    }
}
