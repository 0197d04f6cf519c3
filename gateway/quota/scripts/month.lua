-- Put before the scripts that need the calendar.
--
-- The month of a wall clock in milliseconds, as yyyymm in UTC, and the milliseconds until the next (gateway/limits/
-- budget.py, month_of, where the same is explained).
local function month_of(wall)
  local floor = math.floor
  local days = floor(wall / 86400000) + 719468
  local era = floor(days / 146097)
  local doe = days - era * 146097
  local year = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * year + floor(year / 4) - floor(year / 100))
  local march = floor((5 * doy + 2) / 153)
  local day = doy - floor((153 * march + 2) / 5)
  local month = march < 10 and march + 3 or march - 9
  year = year + era * 400 + (month <= 2 and 1 or 0)
  local length = ({31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31})[month]
  if month == 2 and year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0) then length = 29 end
  return year * 100 + month, (length - day) * 86400000 - wall % 86400000
end
