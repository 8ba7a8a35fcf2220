# Comparison of timestamps.
#
# Facts carry timestamps in one spelling (YYYY-MM-DDTHH:MM:SSZ), in which the order of the strings
# is the order of the instants. So none is parsed: parsing fails for years after 2262, and the
# engines disagree on odd dates, while string order is total and the same everywhere.
package sluicegate

# True from the instant itself on: what expires at T is expired at T.
reached(stamp) if input.context.time >= stamp

# True before the instant.
ahead(stamp) if input.context.time < stamp

# Timestamps of the data are written by people; in another spelling their order would mean nothing.
canonical(stamp) if {
	is_string(stamp)
	count(stamp) == 20
	substring(stamp, 10, 1) == "T"
	endswith(stamp, "Z")
}
