# Waves: dated openings of a model to those whom its stage does not admit yet.
package sluicegate

# The model's wave is open and meant for this subject.
wave_admits(model) if {
	wave := data.waves[model.wave]
	open(wave)
	admits(wave.admits)
}

# The model's wave is meant for this subject and still to open.
wave_awaited(model) if {
	wave := data.waves[model.wave]
	not open(wave)
	not closed(wave)
	admits(wave.admits)
}

open(wave) if {
	canonical(wave.opens_at)
	reached(wave.opens_at)
	clock_trusted(wave)
	not closed(wave)
}

# An unsure clock opens nothing; what people have seen open stays open.
clock_trusted(_) if input.context.clock == "ok"

clock_trusted(wave) if wave.opened == true

closed(wave) if reached(wave.closes_at)

closed(wave) if {
	wave.closes_at
	not canonical(wave.closes_at)
}

wave_remedy(wave) := "The gateway's clock is being checked; call again in a minute." if {
	reached(wave.opens_at)
} else := sprintf("Call again after %s.", [wave.opens_at])
