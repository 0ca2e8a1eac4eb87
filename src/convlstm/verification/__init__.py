"""Score forecasts by lead time and threshold, with counts and intervals."""

from convlstm.verification.differences import difference_table as difference_table
from convlstm.verification.scorecard import case_sums as case_sums
from convlstm.verification.scorecard import score_forecasts as score_forecasts
from convlstm.verification.scorecard import skill_table as skill_table
